// Prints how loading the addon fails.
try {
  await import("../../../lib/torch/index.js");
  console.log("it loads");
} catch (error) {
  console.log((error as { code?: string }).code, (error as Error).message);
}
