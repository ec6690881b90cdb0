import { createApp } from "vue";
import App from "./App.vue";
import { begin } from "./state/session";
import "./state/drafts";
import "./state/inbox";
import "./state/people";
import "./state/thread";
import "./style/base.css";

createApp(App).mount("#app");
void begin();
// Browsers have them for pages that came over TLS, or from localhost.
if (import.meta.env.PROD && "serviceWorker" in navigator) navigator.serviceWorker.register("/sw.js").catch(() => {});
