import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ApiFailure, apiKey, fetchModel } from "./api.js";
import { useCopy } from "./clipboard.js";
import { Composer } from "./composer.js";
import { Header } from "./header.js";
import { KeyForm } from "./key-form.js";
import { Player } from "./player.js";
import { type Message, type Mode, type Model, requestOf } from "./protocol.js";
import { Run } from "./run.js";
import { RunPanel } from "./run-panel.js";
import { Scrubber } from "./scrubber.js";
import { fromHash, type Settings, type Task, type Texts, toHash } from "./settings.js";
import { SettingsPanel } from "./settings-panel.js";
import { useLive } from "./use-live.js";

/** Characters of the prompt that the canvas shows before the text. */
const CONTEXT = 600;

/** Seconds until a server that did not answer is asked for its model again. */
const ASK_AGAIN = 3;

export function App() {
  const initial = useMemo(() => fromHash(location.hash), []);
  const [settings, setSettings] = useState(initial.settings);
  const [texts, setTexts] = useState(initial.texts);
  const [history, setHistory] = useState<Message[]>([]);
  const [runs, setRuns] = useState<Run[]>([]);
  const [model, setModel] = useState<Model>();
  const [needsKey, setNeedsKey] = useState("");
  const [trouble, setTrouble] = useState("");
  const [missing, setMissing] = useState<Partial<Record<Task, string>>>({});
  const [shared, copyLink] = useCopy();
  const player = useMemo(() => new Player(), []);
  useLive(...runs);
  const busy = runs.some((run) => !run.isOver);

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

  const start = () => {
    if (busy) return;
    const modes: Mode[] = settings.decoder === "both" ? ["diffusion", "autoregressive"] : [settings.decoder];
    const around = { ...surroundings(settings.task, texts), planned: settings.maxTokens };
    const next = modes.map((mode) => new Run(mode, requestOf(settings, texts, history, mode), around));
    globalThis.history.replaceState(null, "", `#${toHash(settings, texts)}`);
    player.load(next);
    setRuns(next);
    void follow(next);
  };

  const follow = async (started: Run[]) => {
    if (settings.together) await Promise.all(started.map((run) => run.start()));
    else for (const run of started) await run.start();
    if (model?.blockSize === undefined) ask(); // the model was still loading when the page was
    for (const { failure } of started) {
      if (failure?.status === 401) setNeedsKey(keyMessage(failure));
      if (failure?.fault.code === "chat_template_missing") setMissing((old) => ({ ...old, chat: failure.message }));
      if (failure?.fault.code === "infilling_unsupported") setMissing((old) => ({ ...old, infill: failure.message }));
    }
    if (settings.task === "chat" && started[0].state === "done") {
      const answer: Message = { role: "assistant", content: started[0].text };
      setHistory((old) => [...old, { role: "user", content: texts.message }, answer]);
      setTexts((old) => ({ ...old, message: "" }));
    }
  };

  const cancel = () => {
    for (const run of runs) run.cancel();
  };

  const actions = useRef({ start, cancel });
  actions.current = { start, cancel };
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => handleKey(event, actions.current, player);
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [player]);

  return (
    <>
      <Header
        model={model}
        shared={shared}
        onShare={() => copyLink(`${location.href.replace(/#.*/, "")}#${toHash(settings, texts)}`)}
      />
      <main>
        <div class="work">
          {needsKey && (
            <KeyForm
              message={needsKey}
              onKey={(key) => {
                apiKey.set(key);
                setNeedsKey("");
                ask();
              }}
            />
          )}
          {trouble && (
            <p class="failure" role="alert">
              {trouble}
            </p>
          )}
          <Composer
            task={settings.task}
            texts={texts}
            history={history}
            missing={missing}
            onTask={(task) => setSettings({ ...settings, task })}
            onTexts={setTexts}
            onForget={() => setHistory([])}
          />
          <div class="actions">
            <button type="button" class="primary" disabled={busy} onClick={start}>
              Run <kbd>Ctrl ↵</kbd>
            </button>
            <button type="button" disabled={!busy} onClick={cancel}>
              Cancel <kbd>Esc</kbd>
            </button>
            <p class="hidden" role="status">
              {announcement(runs)}
            </p>
            {runs.length > 0 && <Legend />}
          </div>
          <div class={`runs${runs.length > 1 ? " two" : ""}`}>
            {runs.map((run) => (
              <RunPanel key={run.mode} run={run} player={player} />
            ))}
            {runs.length === 0 && <Blank />}
          </div>
          {runs.length > 0 && <Scrubber player={player} key={runs.length} />}
        </div>
        <Side settings={settings} model={model} onChange={(change) => setSettings((old) => ({ ...old, ...change }))} />
      </main>
    </>
  );
}

function Side(props: { settings: Settings; model: Model | undefined; onChange: (change: Partial<Settings>) => void }) {
  // Open where there is room beside the canvas, folded on a phone.
  const open = useMemo(() => matchMedia("(min-width: 900px)").matches, []);
  return (
    <aside>
      <details open={open}>
        <summary>Settings</summary>
        <SettingsPanel settings={props.settings} served={props.model?.blockSize} onChange={props.onChange} />
      </details>
    </aside>
  );
}

function Legend() {
  return (
    <p class="legend">
      <span class="t mask" aria-hidden="true" /> masked
      <span class="scale" aria-hidden="true">
        {[0, 1, 2, 3, 4, 5].map((each) => (
          <i key={each} class={`t h${each}`} />
        ))}
      </span>
      sure to doubtful
    </p>
  );
}

function Blank() {
  return (
    <section class="run blank" aria-label="Nothing yet">
      <p aria-hidden="true">
        {[5, 3, 8, 2, 6, 4, 9, 3, 5, 7, 2, 4].map((width, i) => (
          <i key={i} class={`w${width}`} />
        ))}
      </p>
      <p class="quiet">
        A run begins as a row of masks. Each pass of the model commits the tokens it is sure of, block by block; the
        strip below replays every pass.
      </p>
    </section>
  );
}

function surroundings(task: Task, texts: Texts): { before: string; after: string } {
  if (task === "chat") return { before: "", after: "" };
  const before = task === "infill" ? texts.prefix : texts.prompt;
  const after = task === "infill" ? texts.suffix : "";
  const cut = before.length > CONTEXT ? `… ${before.slice(-CONTEXT)}` : before;
  return { before: cut, after: after.length > CONTEXT ? `${after.slice(0, CONTEXT)} …` : after };
}

function keyMessage(failure: ApiFailure): string {
  return apiKey.get() === "" ? "This server asks for an API key." : failure.fault.message;
}

/** What a screen reader is told: states, not every token. */
function announcement(runs: readonly Run[]): string {
  if (runs.length === 0) return "";
  if (runs.some((run) => !run.isOver)) return "Generating.";
  return runs
    .map(({ state, counts, failure }) =>
      state === "failed"
        ? `Failed: ${failure?.message}`
        : `${state}: ${counts.tokens} tokens in ${counts.forwards} forwards.`,
    )
    .join(" ");
}

function handleKey(event: KeyboardEvent, actions: { start: () => void; cancel: () => void }, player: Player): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    actions.start();
    return;
  }
  if (event.key === "Escape") {
    actions.cancel();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || player.end === 0) return;
  const target = event.target instanceof Element ? event.target : undefined;
  if (target?.closest("input, textarea, select")) return; // they have uses of their own for these keys
  const steps: Record<string, () => void> = {
    ArrowLeft: () => player.step(-1),
    ArrowRight: () => player.step(1),
    Home: () => player.step(Number.NEGATIVE_INFINITY),
    End: () => player.step(Number.POSITIVE_INFINITY),
    ...(!target?.closest("button, summary, a") && { " ": () => player.toggle() }),
  };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  step();
}
