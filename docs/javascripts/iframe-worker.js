// Browsers refuse to start workers from files, and the search is one. Where the site is read from a disk, without a
// server, a hidden frame takes the worker's place. (The name keeps the site generator from loading a script of this
// kind from elsewhere.)
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html>";
      this.frame.onload = () => this.start(new URL(url, document.baseURI));
      document.body.append(this.frame);
    }

    start(url) {
      this.inside = this.frame.contentWindow;
      this.inside.postMessage = (data) => setTimeout(() => this.onmessage?.({ data }));
      const script = this.inside.document.createElement("script");
      script.src = url;
      script.onload = () => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      };
      script.onerror = (event) => this.onerror?.(event);
      this.inside.document.body.append(script);
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else setTimeout(() => this.inside?.onmessage?.({ data }));
    }

    terminate() {
      this.inside = null;
      this.frame.remove();
    }
  };
}
