import type { StableDiffCoder } from "../model/index.js";
import { EngineCore } from "./core.js";
import type { Host, HostHandlers } from "./host.js";
import type { EngineSettings } from "./options.js";
import { type CoreMessage, errorParts } from "./protocol.js";

/** The core in this very thread: nothing crosses, and passes block the event loop. */
export class LocalHost implements Host {
  readonly core: EngineCore;
  readonly #onReply: HostHandlers["onReply"];
  readonly #owned: StableDiffCoder | undefined;

  /** @param owns whether the model goes with the engine */
  constructor(coder: StableDiffCoder, settings: EngineSettings, onReply: HostHandlers["onReply"], owns: boolean) {
    this.#onReply = onReply;
    this.#owned = owns ? coder : undefined;
    this.core = new EngineCore(coder, settings, (reports) =>
      onReply({
        kind: "reports",
        reports: reports.map(({ error, ...rest }) => ({ ...rest, ...(error && { error: errorParts(error) }) })),
      }),
    );
  }

  post(message: CoreMessage): void {
    const { core } = this;
    switch (message.kind) {
      case "generate":
        core.generate(message.request);
        return;
      case "abort":
        core.abort(message.key);
        return;
      case "score": {
        const { key } = message;
        core.score(message.tokens, message.settings).then(
          (result) => this.#onReply({ kind: "score", key, result }),
          (error) => this.#onReply({ kind: "score", key, error: errorParts(error) }),
        );
        return;
      }
      case "close":
        void core.close().finally(() => {
          this.#owned?.dispose();
          this.#onReply({ kind: "closed" });
        });
    }
  }

  async kill(): Promise<void> {}
  ref(): void {}
  unref(): void {}
}
