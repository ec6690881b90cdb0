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
