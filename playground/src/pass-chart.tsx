import type { Player } from "./player.js";
import type { Run } from "./run.js";

/** Tokens committed per pass. All runs share both axes, so that their lengths and heights compare. */
export function PassChart({ run, player, shown }: { run: Run; player: Player; shown: number }) {
  const { passes } = run.recording;
  const width = Math.max(1, player.end);
  const tallest = Math.max(
    4,
    ...player.runs.map((each) =>
      each.recording.passes.reduce((most, pass) => Math.max(most, pass.committed.length), 1),
    ),
  );
  const gap = width > 160 ? 0 : 0.18;
  let bars = "";
  passes.forEach((pass, i) => {
    const height = (pass.committed.length / tallest) * 30;
    bars += `M${i + gap / 2} 32v${-height}h${1 - gap}v${height}z`;
  });
  const most = passes.reduce((best, pass) => Math.max(best, pass.committed.length), 0);
  const now = (passes[shown - 1]?.committed.length ?? 0) * (30 / tallest);
  const committed = run.recording.committed;
  const mean = passes.length > 0 ? committed / passes.length : 0;
  return (
    <figure class="chart">
      <figcaption>
        Tokens per forward <span class="quiet">{passes.length > 0 ? `mean ${mean.toFixed(2)}, most ${most}` : ""}</span>
      </figcaption>
      {/* biome-ignore lint/a11y/useKeyWithClickEvents: the slider below does the same by keyboard */}
      <svg
        viewBox={`0 0 ${width} 32`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`Tokens committed in each of ${passes.length} passes, ${mean.toFixed(2)} on average`}
        onClick={(event) => {
          const box = event.currentTarget.getBoundingClientRect();
          player.seek(Math.ceil(((event.clientX - box.left) / box.width) * width));
        }}
      >
        {shown > 0 && <rect class="column" x={shown - 1} y="0" width="1" height="32" />}
        <path class="bars" d={bars} />
        {shown > 0 && <rect class="at" x={shown - 1 + gap / 2} y={32 - now} width={1 - gap} height={now} />}
      </svg>
    </figure>
  );
}
