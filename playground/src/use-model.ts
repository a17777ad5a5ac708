import { useEffect, useState } from "preact/hooks";
import { ApiFailure, apiKey, fetchModel } from "./api.js";
import type { Model } from "./protocol.js";
import type { Task } from "./settings.js";

/** Seconds until a server that did not answer is asked for its model again. */
const ASK_AGAIN = 3;

export interface ServedModel {
  model: Model | undefined;
  /** Why the server wants an API key; "": it wants none. */
  needsKey: string;
  /** Why the server did not tell its model; "": it did, or was not heard yet. */
  trouble: string;
  /** Why a task cannot be had of this model. */
  missing: Partial<Record<Task, string>>;
  /** Asks the server for its model again. */
  ask: () => void;
  giveKey: (key: string) => void;
  /** Takes what the failure of a run says about the server or the model. */
  learn: (failure: ApiFailure) => void;
}

/** What the server tells of its model, asked for until it answers. */
export function useModel(): ServedModel {
  const [model, setModel] = useState<Model>();
  const [needsKey, setNeedsKey] = useState("");
  const [trouble, setTrouble] = useState("");
  const [missing, setMissing] = useState<Partial<Record<Task, string>>>({});

  const ask = () => {
    fetchModel().then(
      (found) => {
        setModel(found);
        setTrouble("");
        setMissing({
          ...(found?.chat === false && { chat: "This model has no chat template." }),
          ...(found?.infill === false && { infill: "This model was not trained for infilling." }),
        });
      },
      (error: unknown) => {
        if (error instanceof ApiFailure && error.status === 401) {
          setNeedsKey(keyMessage(error));
          return;
        }
        setTrouble((error as Error).message);
        const wait = error instanceof ApiFailure ? error.retryAfter : undefined;
        setTimeout(ask, 1000 * (wait ?? ASK_AGAIN)); // it may be starting, or restarting
      },
    );
  };
  useEffect(ask, []);

  const giveKey = (key: string) => {
    apiKey.set(key);
    setNeedsKey("");
    ask();
  };

  const learn = (failure: ApiFailure) => {
    const { code } = failure.fault;
    if (failure.status === 401) setNeedsKey(keyMessage(failure));
    if (code === "chat_template_missing") setMissing((old) => ({ ...old, chat: failure.message }));
    if (code === "infilling_unsupported") setMissing((old) => ({ ...old, infill: failure.message }));
  };

  return { model, needsKey, trouble, missing, ask, giveKey, learn };
}

function keyMessage(failure: ApiFailure): string {
  return apiKey.get() === "" ? "This server asks for an API key." : failure.fault.message;
}
