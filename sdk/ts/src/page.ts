// What a page knows of its surroundings: whether somebody looks at it, and whether there is a network.

interface Surrounded {
  setBackground(background: boolean): void;
  /** Connect now, or find out whether the connection still lives. */
  nudge(): void;
  networkGone(): void;
}

/** Tells a client of the page's surroundings, until the function that is returned is called. */
export function followPage(c: Surrounded): () => void {
  if (typeof document === "undefined" || typeof window === "undefined") return () => {};
  const looked = () => {
    const visible = document.visibilityState !== "hidden";
    c.setBackground(!visible);
    if (visible) c.nudge();
  };
  const online = () => c.nudge();
  const offline = () => c.networkGone();
  const shown = (e: PageTransitionEvent) => {
    if (e.persisted) c.nudge(); // back from the page cache, where connections don't live
  };
  document.addEventListener("visibilitychange", looked);
  window.addEventListener("online", online);
  window.addEventListener("offline", offline);
  window.addEventListener("pageshow", shown);
  if (document.visibilityState === "hidden") c.setBackground(true);
  return () => {
    document.removeEventListener("visibilitychange", looked);
    window.removeEventListener("online", online);
    window.removeEventListener("offline", offline);
    window.removeEventListener("pageshow", shown);
  };
}
