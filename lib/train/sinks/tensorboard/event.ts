import * as proto from "../protobuf.js";

/** What a TensorBoard Event can say here. Field numbers are those of TensorFlow's event.proto and summary.proto. */
export type EventContent =
  | { kind: "version" }
  /** The run goes on: points of this step and later ones, written before, are superseded. */
  | { kind: "start" }
  | { kind: "scalars"; values: Readonly<Record<string, number>> }
  /** Markdown, shown in the tab "Text". */
  | { kind: "text"; tag: string; text: string }
  /** What the run was made with, shown in the tab "HParams". */
  | { kind: "hparams"; values: Readonly<Record<string, string | number>>; name: string; startedAt: number }
  | { kind: "session-end"; status: keyof typeof STATUS; endedAt: number };

/** The hparams plugin's own numbers. */
const STATUS = { success: 1, failure: 2 } as const;

/** The protobuf bytes of an Event. @param time seconds since 1970 */
export function encodeEvent(time: number, step: number, content: EventContent): Buffer {
  return Buffer.concat([proto.double(1, time), ...(step > 0 ? [proto.integer(2, step)] : []), encode(content)]);
}

const SESSION_START = 1;
const DT_FLOAT = 1;
const DT_STRING = 7;

function encode(content: EventContent): Buffer {
  switch (content.kind) {
    case "version":
      return proto.text(3, "brain.Event:2");
    case "start":
      return proto.message(7, proto.integer(1, SESSION_START));
    case "scalars": {
      const values = Object.entries(content.values).map(([tag, value]) =>
        proto.message(1, proto.text(1, tag), proto.float(2, value)),
      );
      return proto.message(5, ...values);
    }
    case "text":
      return summary(content.tag, plugin("text"), [
        proto.integer(1, DT_STRING),
        proto.message(2, proto.message(2, proto.integer(1, 1))), // shape [1]
        proto.text(8, content.text),
      ]);
    case "hparams": {
      const { values, name, startedAt } = content;
      // A map's entry is a message of its key and its value, here a google.protobuf.Value.
      const entries = Object.entries(values).map(([key, value]) =>
        proto.message(
          1,
          proto.text(1, key),
          proto.message(2, typeof value === "number" ? proto.double(2, value) : proto.text(3, value)),
        ),
      );
      const info = proto.message(3, ...entries, proto.text(4, name), proto.double(5, startedAt));
      return summary("_hparams_/session_start_info", plugin("hparams", info), NOTHING);
    }
    case "session-end": {
      const info = proto.message(4, proto.integer(1, STATUS[content.status]), proto.double(2, content.endedAt));
      return summary("_hparams_/session_end_info", plugin("hparams", info), NOTHING);
    }
  }
}

/** A tensor without elements: the hparams plugin keeps everything in its metadata. */
const NOTHING = [proto.integer(1, DT_FLOAT), proto.message(2, proto.message(2, proto.integer(1, 0)))];

function summary(tag: string, metadata: Buffer, tensor: readonly Buffer[]): Buffer {
  return proto.message(5, proto.message(1, proto.text(1, tag), proto.message(8, ...tensor), metadata));
}

/** SummaryMetadata. */
function plugin(name: string, content?: Buffer): Buffer {
  return proto.message(9, proto.message(1, proto.text(1, name), ...(content ? [proto.message(2, content)] : [])));
}
