"""One side of decode.py: vLLM's offline engine, in the interpreter of `.venv-vllm`; imports nothing of this project.

Reads a line of JSON with the prompts and the number of completions of each, and answers with the seconds of
`LLM.generate` and the tokens it returned, until its input ends. What vLLM itself prints goes to stderr.
"""

import argparse
import json
import os
import sys
import time


def main() -> None:
    """Load the model, then serve requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, required=True, help="completions at once")
    parser.add_argument("--length", type=int, required=True, help="tokens of a prompt and its completion")
    parser.add_argument("--tokens", type=int, required=True, help="new tokens per completion")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prefix-caching", action="store_true")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    from vllm import LLM, SamplingParams

    llm = LLM(
        model=arguments.model,
        dtype=arguments.dtype,
        max_num_seqs=arguments.rows,
        max_model_len=arguments.length,
        enable_prefix_caching=arguments.prefix_caching,
        disable_log_stats=True,
        seed=0,
    )
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        draw = SamplingParams(
            n=asked["group"],
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_tokens=arguments.tokens,
            ignore_eos=True,
            detokenize=False,
        )
        prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
        began = time.perf_counter()
        found = llm.generate(prompts, draw, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(one.token_ids) for each in found for one in each.outputs)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
