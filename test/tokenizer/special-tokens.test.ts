import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../lib/checkpoint/read.js";
import { findEndIds } from "../../lib/tokenizer/named-tokens.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { TokenizerError } from "../../lib/tokenizer/tokenizer-error.js";

type Json = Record<string, unknown>;

interface Case {
  files: Record<string, Json> & { "tokenizer.json"?: string };
  /** What AutoTokenizer gives. */
  tokenizer?: {
    class: string;
    roles: Record<string, [token: string, id: number]>;
    skipped: number[];
    new: Record<string, number>;
    size: number;
  };
  refused?: string;
  /** Where generate() ends. */
  model?: { ends: number[] | null };
  modelRefused?: string;
}

interface Fixture {
  base: Json;
  variants: Record<string, Json>;
  cases: Case[];
}

const fixture = JSON.parse(
  readFileSync(new URL("../fixtures/special-tokens.json", import.meta.url), "utf8"),
) as Fixture;

describe("the special tokens of a folder", () => {
  let root = "";
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "special-tokens-"));
  });
  afterAll(() => rmSync(root, { recursive: true }));

  const open = ({ files }: Case, i: number) => {
    const folder = join(root, String(i));
    mkdirSync(folder);
    const { "tokenizer.json": variant, ...others } = files;
    const tokenizer = variant === undefined ? fixture.base : fixture.variants[variant];
    for (const [name, content] of Object.entries({ ...others, "tokenizer.json": tokenizer })) {
      writeFileSync(join(folder, name), JSON.stringify(content));
    }
    return Tokenizer.fromPretrained(folder);
  };

  it("are those of transformers, whatever the five files say", () => {
    let compared = 0;
    let refused = 0;
    for (const [i, one] of fixture.cases.entries()) {
      const shown = `case ${i}: ${JSON.stringify(one.files)}`;
      let tokenizer: Tokenizer;
      try {
        tokenizer = open(one, i);
      } catch (error) {
        if (!(error instanceof TokenizerError) || one.refused === undefined) throw new Error(shown, { cause: error });
        expect(error.code, shown).toBe("TOKENIZER_FILE_INVALID");
        refused++;
        continue;
      }
      if (one.refused !== undefined) {
        // A token as an object without "__type": transformers takes it in special_tokens_map.json alone, we everywhere.
        expect(JSON.stringify(one.files), shown).toMatch(/"[a-z]+_token":\{"content"/);
        continue;
      }
      const { roles, skipped, new: added, size } = one.tokenizer as NonNullable<Case["tokenizer"]>;
      const { specialTokensMap, bosId, eosId, padId } = tokenizer;
      const names = Object.fromEntries(Object.entries(roles).map(([role, [token]]) => [`${role}_token`, token]));
      expect(specialTokensMap, shown).toMatchObject(names);
      for (const role of ["bos", "eos", "pad", "unk", "mask"]) {
        if (!(role in roles)) expect(specialTokensMap, shown).not.toHaveProperty(`${role}_token`);
      }
      for (const [role, id] of Object.entries({ bos: bosId, eos: eosId, pad: padId })) {
        if (role in roles) expect(id, `${role} of ${shown}`).toBe(roles[role][1]);
      }
      const ids = Array.from({ length: tokenizer.vocabSize }, (_, id) => id);
      const dropped = ids.filter((id) => tokenizer.isSpecial(id));
      expect(dropped, shown).toEqual(skipped);
      for (const [token, id] of Object.entries(added))
        expect(tokenizer.tokenToId(token), `${token} of ${shown}`).toBe(id);
      expect(tokenizer.vocabSize, shown).toBe(size);
      compared++;
    }
    expect(compared).toBeGreaterThan(200);
    expect(refused).toBeGreaterThan(20);
  });

  it("end a text where generate() of transformers ends one", () => {
    let compared = 0;
    for (const [i, one] of fixture.cases.entries()) {
      if (!one.model) continue;
      const { files } = one;
      const shown = `case ${i}: ${JSON.stringify(files)}`;
      // Ids below 0 end nothing, there or here.
      const ends = [...new Set(one.model.ends ?? [])].filter((id) => id >= 0);
      const [config, generation] = [files["config.json"], files["generation_config.json"]];
      expect(findEndIds({ dir: "", config, generation }), shown).toEqual(ends);
      const folder = join(root, `model-${i}`);
      mkdirSync(folder);
      for (const name of ["config.json", "generation_config.json"]) {
        if (files[name]) writeFileSync(join(folder, name), JSON.stringify(files[name]));
      }
      expect([readConfig(folder).eosTokenId ?? []].flat(), shown).toEqual(ends);
      compared++;
    }
    expect(compared).toBeGreaterThan(200);
  });

  it("of a folder without a model end with the tokenizer's own", () => {
    const folder = join(root, "alone");
    mkdirSync(folder);
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(fixture.base));
    const given = (config: Json) => {
      writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(config));
      const { eosId, eosIds, maskId } = Tokenizer.fromPretrained(folder);
      return { eosId, eosIds, maskId };
    };
    // The mask is known by its name, where the files do not say that there is none.
    expect(given({ eos_token: "<|eot|>" })).toEqual({ eosId: 258, eosIds: [258], maskId: 259 });
    expect(given({ eos_token: null, mask_token: null })).toEqual({ eosId: undefined, eosIds: [], maskId: undefined });
    expect(given({})).toEqual({ eosId: undefined, eosIds: [], maskId: 259 });
  });

  it("of the wrong kind are errors that name file, key and value", () => {
    const folder = join(root, "wrong");
    mkdirSync(folder);
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(fixture.base));
    const messageOf = (name: string, content: Json) => {
      writeFileSync(join(folder, name), JSON.stringify(content));
      try {
        Tokenizer.fromPretrained(folder);
      } catch (error) {
        rmSync(join(folder, name));
        return (error as TokenizerError).code + (error as Error).message.slice(folder.length);
      }
      return "no error";
    };
    expect(messageOf("generation_config.json", { eos_token_id: "257" })).toBe(
      'TOKENIZER_FILE_INVALID/generation_config.json: eos_token_id is "257", expected an id, a list of ids, or null',
    );
    expect(messageOf("tokenizer_config.json", { eos_token: 257 })).toMatch(
      /^TOKENIZER_FILE_INVALID.tokenizer_config\.json: eos_token is 257, expected a token's text/,
    );
    expect(messageOf("added_tokens.json", { "<x>": "a" })).toMatch(
      /added_tokens\.json: "<x>" is "a", expected a token id/,
    );
    expect(messageOf("tokenizer_config.json", { added_tokens_decoder: { a: "<x>" } })).toMatch(/"a" is not a token id/);
  });
});
