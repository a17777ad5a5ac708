import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { saveText, useCopy } from "./clipboard.js";
import { count, oneLine, percent, plural, seconds } from "./format.js";
import { Inspector } from "./inspector.js";
import { PassChart } from "./pass-chart.js";
import type { Player } from "./player.js";
import type { Run } from "./run.js";
import { heat, TokenCanvas } from "./token-canvas.js";
import { useLive } from "./use-live.js";

const NAMES = { diffusion: "Diffusion", autoregressive: "Autoregressive" } as const;

/** One run: its canvas, figures, chart, and what is known about the pass and the token that are looked at. */
export function RunPanel({ run, player }: { run: Run; player: Player }) {
  useLive(run, player);
  const root = useRef<HTMLDivElement>(null);
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<TokenCanvas | undefined>(undefined);
  const [selected, select] = useState<number>();
  const [copied, copy] = useCopy();
  const { recording, counts } = run;
  const shown = Math.min(player.at, recording.passes.length);
  const pass = recording.passes[shown - 1];

  useLayoutEffect(() => {
    if (!root.current || !box.current) return;
    canvas.current ??= new TokenCanvas(root.current);
    const textLength = run.state === "done" ? run.completionTokens : undefined;
    canvas.current.show({ recording, pass: shown, length: run.length, textLength, selected });
    follow(box.current, root.current.querySelector<HTMLElement>(".last"));
  });

  const token = selected === undefined ? undefined : canvas.current?.tokenAt(selected);
  const look = (target: EventTarget | null) => {
    const position = canvas.current?.positionOf(target);
    if (position !== undefined) select(position);
  };
  const move = (by: number) => {
    const first = recording.origin;
    if (first < 0) return;
    select(Math.max(first, Math.min((selected ?? first - by) + by, first + recording.length - 1)));
  };
  const name = NAMES[run.mode];
  const left = pass ? plural(pass.masksLeft, "mask") : "";
  return (
    <section class="run" aria-label={name} data-mode={run.mode} data-state={run.state} data-pass={shown}>
      <header>
        <h2>{name}</h2>
        <p class="state">{stateText(run)}</p>
        <button type="button" class="plain" disabled={run.text === ""} onClick={() => copy(run.text)}>
          {copied || "Copy text"}
        </button>
        <button
          type="button"
          class="plain"
          disabled={recording.passes.length === 0}
          onClick={() => saveText(`diffcoder-${run.mode}.json`, JSON.stringify(run, null, 1))}
        >
          Save JSON
        </button>
      </header>
      <dl class="counts">
        <Figure name="Forwards" value={count(counts.forwards)} title={forwardsNote(run)} />
        <Figure name="Tokens" value={count(counts.tokens)} />
        <Figure name="Per forward" value={counts.tokensPerForward.toFixed(2)} strong />
        <Figure name="Tokens / s" value={counts.tokensPerSecond.toFixed(1)} />
        <Figure name="First token" value={seconds(counts.firstToken)} title="Until the first text arrived" />
        <Figure name="Elapsed" value={seconds(counts.elapsed)} />
      </dl>
      {run.failure && (
        <div class="failure" role="alert">
          <b>{run.failure.fault.code || (run.failure.status > 0 ? `Status ${run.failure.status}` : "Failed")}</b>
          <span>{run.failure.fault.message}</span>
          {run.failure.fault.param && <code>parameter {run.failure.fault.param}</code>}
          {run.failure.retryAfter !== undefined && <span>Try again in {run.failure.retryAfter} s.</span>}
        </div>
      )}
      <section
        class="canvas"
        ref={box}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: up and down move between its tokens, and it scrolls
        tabIndex={0}
        aria-label={`${name} canvas after pass ${shown}: ${pass ? left : "all masks"} left. Up and down move between tokens.`}
        onPointerOver={(event) => look(event.target)}
        onPointerDown={(event) => look(event.target)}
        onKeyDown={(event) => {
          const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (by === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
          event.preventDefault();
          move(by);
        }}
      >
        <span class="given">{run.before}</span>
        <span class="tokens" ref={root} />
        <span class="given">{run.after}</span>
      </section>
      <div class="details">
        <div>
          <div class="facts" aria-live="off">
            <p>
              {pass ? (
                <>
                  <b>Pass {count(shown)}</b> of {count(recording.passes.length)}
                  {run.mode === "diffusion" && (
                    <>
                      {" · "}block {pass.block} · step {pass.step} · {left} left
                    </>
                  )}
                  {" · "}
                  {plural(pass.committed.length, "token")} committed
                  {pass.remasked.length > 0 && ` · ${pass.remasked.length} masked again`}
                </>
              ) : (
                <b>Before the first pass</b>
              )}
            </p>
            <ul class="chips">
              {pass?.committed.slice(0, 32).map((each) => (
                <li key={each.position}>
                  <button
                    type="button"
                    class={`h${heat(each.logprob)}${each.position === selected ? " on" : ""}`}
                    onClick={() => select(each.position)}
                    onFocus={() => select(each.position)}
                    onPointerEnter={() => select(each.position)}
                  >
                    <code>{oneLine(each.text)}</code> {percent(each.logprob)}
                  </button>
                </li>
              ))}
              {pass && pass.committed.length > 32 && <li class="quiet">and {pass.committed.length - 32} more</li>}
            </ul>
          </div>
          <PassChart run={run} player={player} shown={shown} />
        </div>
        <Inspector token={token} position={selected} />
      </div>
    </section>
  );
}

function Figure({ name, value, title, strong }: { name: string; value: string; title?: string; strong?: boolean }) {
  return (
    <div class={strong ? "strong" : ""} title={title}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function stateText(run: Run): string {
  switch (run.state) {
    case "waiting":
      return "waits";
    case "running":
      return run.recording.passes.length > 0 ? "denoising" : "reading the prompt";
    case "cancelled":
      return "cancelled";
    case "failed":
      return "failed";
    case "done":
      return run.finishReason === "stop" ? "stop reached" : "length reached";
  }
}

function forwardsNote(run: Run): string {
  const all = run.serverForwards === undefined ? "" : ` ${count(run.serverForwards)} with those of the prompt.`;
  return `Passes that generated.${all}`;
}

/** Scrolls a box so that an element in it can be seen. */
function follow(box: HTMLElement, element: HTMLElement | null): void {
  if (!element) return;
  const outer = box.getBoundingClientRect();
  const inner = element.getBoundingClientRect();
  if (inner.bottom > outer.bottom - 24) box.scrollTop += inner.bottom - outer.bottom + 48;
  else if (inner.top < outer.top + 8) box.scrollTop -= outer.top - inner.top + 48;
}
