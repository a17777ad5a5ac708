"""Trains the quickstart's code tokenizer: byte-level BPE of 4,096 tokens with Seed-Coder's special tokens.

Text: Python's standard library and the JavaScript and TypeScript under node_modules, the same amount of each.
Same text in, same bytes out: files are ordered by the hash of their content and the trainer has no random part.
The SHA-256 of the text is printed and kept in assets/tokenizer/README.md.

Run (Python 3.9 or later):
    python3 -m venv /some/folder && /some/folder/bin/pip install tokenizers==0.23.3
    npm ci
    /some/folder/bin/python scripts/train-tokenizer.py            # rewrites assets/tokenizer/
    /some/folder/bin/python scripts/train-tokenizer.py --check    # only compares with what is there
"""

import argparse
import hashlib
import json
import sys
import sysconfig
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parent.parent
SIZE = 4096

# Ids 0, 1, 2 and 5 are Seed-Coder's and Stable-DiffCoder's (bos, pad, eos, mask). The others are ours.
SPECIAL = [
    "<[begin▁of▁sentence]>",  # 0
    "<[PAD▁TOKEN]>",  # 1
    "<[end▁of▁sentence]>",  # 2
    "<[reserved-3]>",
    "<[reserved-4]>",
    "<[MASK_TOKEN]>",  # 5
    "<[fim-suffix]>",  # 6
    "<[fim-prefix]>",  # 7
    "<[fim-middle]>",  # 8
    *[f"<[reserved-{i}]>" for i in range(9, 16)],
]

# One alternative per kind of piece. Indentation is a piece of its own, and a word never takes a part of it,
# so a prompt that ends after an indentation is cut exactly like the same text inside a document.
PATTERN = "|".join(
    [
        r"[ \t]*[\r\n]+",  # line ends, with blanks before them
        r"[ \t]{2,}",  # indentation and alignment
        r"[^\s\p{L}\p{N}]?\p{L}+",  # a word, with one punctuation mark before it: ".name", "_name"
        r" ?\p{L}+",  # a word after a single space
        r"\p{N}",  # digits one by one
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation, with the line ends after it
        r"\s+",
    ]
)

# Seed-Coder's form of a conversation: <bos>role\ncontent<eos>, a system message followed by a blank line.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role: ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- bos_token + message['role'] + '\\n' + message['content'] -}}"
    "{%- if message['role'] == 'system' -%}{{- '\\n\\n' -}}{%- endif -%}"
    "{{- eos_token -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- bos_token + 'assistant\\n' -}}{%- endif -%}"
)

SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}


def read_sources(root, endings, limit):
    """Texts of the files under `root` with one of `endings`, ordered by content hash, up to `limit` bytes."""
    found = {}
    for path in root.rglob("*"):
        if not path.name.endswith(endings) or path.name.endswith((".min.js", ".min.mjs")) or not path.is_file():
            continue
        if SKIPPED_FOLDERS & set(path.relative_to(root).parts[:-1]):
            continue
        data = path.read_bytes()
        if not 0 < len(data) < 400_000 or max(map(len, data.split(b"\n"))) > 1000:
            continue
        try:
            found[hashlib.sha256(data).hexdigest()] = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
    texts, size = [], 0
    for key in sorted(found):
        if size > limit:
            break
        texts.append(found[key])
        size += len(found[key].encode())
    return texts, size


def train(texts):
    """The trained tokenizer: Split by PATTERN, byte level, BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(tokenizer, folder):
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json in `folder`."""
    named = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "pad_token": SPECIAL[1], "mask_token": SPECIAL[5]}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        **named,
        "additional_special_tokens": SPECIAL[6:9],
        "chat_template": CHAT_TEMPLATE,
    }
    dump = {"ensure_ascii": False, "indent": 2}
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, **dump) + "\n", encoding="utf-8")
    mapping = {**named, "additional_special_tokens": SPECIAL[6:9]}
    (folder / "special_tokens_map.json").write_text(json.dumps(mapping, **dump) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "tokenizer")
    parser.add_argument("--node-modules", type=Path, default=ROOT / "node_modules")
    parser.add_argument("--stdlib", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--megabytes", type=float, default=8, help="text per language family")
    parser.add_argument("--check", action="store_true", help="train, then compare with --out instead of writing")
    options = parser.parse_args()

    limit = int(options.megabytes * 1e6)
    python, python_size = read_sources(options.stdlib, (".py",), limit)
    endings = (".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".tsx", ".jsx")
    script, script_size = read_sources(options.node_modules, endings, limit)
    if not python or not script:
        sys.exit(f"no text: {len(python)} files under {options.stdlib}, {len(script)} under {options.node_modules}")
    digest = hashlib.sha256("\0".join(python + script).encode()).hexdigest()
    tokenizer = train(python + script)

    bytes_per_token = [
        sum(len(text.encode()) for text in texts) / sum(len(one.ids) for one in tokenizer.encode_batch(texts))
        for texts in (python, script)
    ]
    print(f"tokenizers {tokenizers.__version__}, Python {sys.version.split()[0]}")
    print(f"text: {len(python)} Python files ({python_size:,} bytes), {len(script)} scripts ({script_size:,} bytes)")
    print(f"sha256 of the text: {digest}")
    print(f"bytes per token: Python {bytes_per_token[0]:.3f}, JavaScript and TypeScript {bytes_per_token[1]:.3f}")

    if not options.check:
        options.out.mkdir(parents=True, exist_ok=True)
        write(tokenizer, options.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(tokenizer, Path(folder))
        different = [
            path.name
            for path in sorted(Path(folder).iterdir())
            if not (options.out / path.name).exists() or path.read_bytes() != (options.out / path.name).read_bytes()
        ]
    sys.exit(f"differs: {', '.join(different)}" if different else None)


if __name__ == "__main__":
    main()
