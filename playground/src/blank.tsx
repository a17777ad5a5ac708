/** What stands where the runs will be. */
export function Blank() {
  return (
    <section class="run blank" aria-label="Nothing yet">
      <p aria-hidden="true">
        {[5, 3, 8, 2, 6, 4, 9, 3, 5, 7, 2, 4].map((width, i) => (
          <i key={i} class={`w${width}`} />
        ))}
      </p>
      <p class="quiet">
        A run begins as a row of masks. Each pass of the model commits the tokens it is sure of, block by block; then a
        strip below replays every pass.
      </p>
    </section>
  );
}
