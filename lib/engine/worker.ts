import { serve } from "../worker/serve.js";
import { CoreService } from "./core-service.js";
import type { CoreHandlers, CoreReports } from "./protocol.js";

// The program of the thread or child process in which the model runs.

serve<CoreHandlers, CoreReports>((context) => new CoreService(context).handlers);
