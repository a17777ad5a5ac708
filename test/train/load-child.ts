// Loads the curriculum files it is given and prints what they hold, one JSON object a line. A process of its own, because a
// test runner has its own way of importing modules.
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { Curriculum, loadCurriculum } from "../../lib/train/index.js";

for (const path of process.argv.slice(2)) {
  try {
    const { curriculum, model, run } = await loadCurriculum(path, { seed: path.includes("seeded") ? 11 : undefined });
    const stages = curriculum.stages.map(({ name, kind }) => `${name}: ${kind}`);
    const own = curriculum instanceof Curriculum && model instanceof StableDiffCoder;
    let steps = 0;
    for await (const event of curriculum.run({ ...run, model, outputDir: undefined }))
      if (event.type === "step") steps++;
    console.log(JSON.stringify({ stages, own, run, steps }));
  } catch (error) {
    console.log(JSON.stringify({ error: (error as Error).message, code: (error as { code?: string }).code }));
  }
}
