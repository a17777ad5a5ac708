import { useMemo, useState } from "preact/hooks";
import { Blank } from "./blank.js";
import { useCopy } from "./clipboard.js";
import { Composer } from "./composer.js";
import { Header } from "./header.js";
import { KeyForm } from "./key-form.js";
import { useKeyboard } from "./keyboard.js";
import { Legend } from "./legend.js";
import { Player } from "./player.js";
import { type Message, type Mode, type Model, requestOf } from "./protocol.js";
import { Run } from "./run.js";
import { RunPanel } from "./run-panel.js";
import { Scrubber } from "./scrubber.js";
import { fromHash, type Settings, type Task, type Texts, toHash } from "./settings.js";
import { SettingsPanel } from "./settings-panel.js";
import { useLive } from "./use-live.js";
import { useModel } from "./use-model.js";

/** Characters of the prompt that the canvas shows before the text. */
const CONTEXT = 600;

export function App() {
  const initial = useMemo(() => fromHash(location.hash), []);
  const [settings, setSettings] = useState(initial.settings);
  const [texts, setTexts] = useState(initial.texts);
  const [history, setHistory] = useState<Message[]>([]);
  const [runs, setRuns] = useState<Run[]>([]);
  const { model, needsKey, trouble, missing, ask, giveKey, learn } = useModel();
  const [shared, copyLink] = useCopy();
  const player = useMemo(() => new Player(), []);
  useLive(...runs);
  const busy = runs.some((run) => !run.isOver);

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
    for (const { failure } of started) if (failure) learn(failure);
    if (settings.task === "chat" && started[0].state === "done") {
      const answer: Message = { role: "assistant", content: started[0].text };
      setHistory((old) => [...old, { role: "user", content: texts.message }, answer]);
      // What was typed meanwhile is the next message.
      setTexts((old) => (old.message === texts.message ? { ...old, message: "" } : old));
    }
  };

  const cancel = () => {
    for (const run of runs) run.cancel();
  };

  useKeyboard({ start, cancel }, player);

  return (
    <>
      <Header
        model={model}
        shared={shared}
        onShare={() => copyLink(`${location.href.replace(/#.*/, "")}#${toHash(settings, texts)}`)}
      />
      <main>
        <div class="work">
          {needsKey && <KeyForm message={needsKey} onKey={giveKey} />}
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

function surroundings(task: Task, texts: Texts): { before: string; after: string } {
  if (task === "chat") return { before: "", after: "" };
  const before = task === "infill" ? texts.prefix : texts.prompt;
  const after = task === "infill" ? texts.suffix : "";
  const cut = before.length > CONTEXT ? `… ${before.slice(-CONTEXT)}` : before;
  return { before: cut, after: after.length > CONTEXT ? `${after.slice(0, CONTEXT)} …` : after };
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
