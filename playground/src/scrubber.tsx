import { count } from "./format.js";
import { type Player, SPEEDS } from "./player.js";
import { useLive } from "./use-live.js";

/** Goes through the passes of all runs. */
export function Scrubber({ player }: { player: Player }) {
  useLive(player, ...player.runs);
  const { at, end, playing } = player;
  const none = end === 0;
  return (
    <fieldset class="scrubber" disabled={none}>
      <legend class="hidden">Replay</legend>
      <button type="button" class="round" onClick={() => player.toggle()} aria-label={playing ? "Pause" : "Play"}>
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d={playing ? "M4 3h3v10H4zM9 3h3v10H9z" : "M4.5 2.5v11l9-5.5z"} />
        </svg>
      </button>
      <button type="button" class="round" onClick={() => player.step(-1)} aria-label="Previous pass">
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M10.5 3.5 6 8l4.5 4.5z" />
        </svg>
      </button>
      <button type="button" class="round" onClick={() => player.step(1)} aria-label="Next pass">
        <svg viewBox="0 0 16 16" aria-hidden="true">
          <path d="M5.5 3.5 10 8l-4.5 4.5z" />
        </svg>
      </button>
      <input
        type="range"
        name="pass"
        aria-label="Pass"
        aria-valuetext={`Pass ${at} of ${end}`}
        min={0}
        max={end}
        value={at}
        onInput={(event) => {
          player.playing = false;
          player.seek(Number(event.currentTarget.value));
        }}
      />
      <output>
        {count(at)}
        <span class="quiet"> / {count(end)}</span>
      </output>
      <select
        name="speed"
        aria-label="Passes per second"
        value={player.speed}
        onChange={(event) => {
          player.speed = Number(event.currentTarget.value);
          player.changed();
        }}
      >
        {SPEEDS.map((each) => (
          <option key={each} value={each}>
            {each} / s
          </option>
        ))}
      </select>
    </fieldset>
  );
}
