"""Program for vLLM's environment: read texts with its tool parsers. Input and output are JSON."""

import json
import os
import sys

os.environ["VLLM_LOGGING_LEVEL"] = "CRITICAL"


def main() -> None:
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    given = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(given["tokenizer"])
    tokenizer.add_tokens(given["marks"])
    found = []
    for case in given["cases"]:
        request = ChatCompletionRequest(
            model="m", messages=[{"role": "user", "content": "Go."}], tools=given["tools"]
        )
        parser = ToolParserManager.get_tool_parser(case["parser"])(tokenizer, request.tools)
        answer = parser.extract_tool_calls(case["text"], request)
        calls = [
            {"name": each.function.name, "arguments": json.loads(each.function.arguments)}
            for each in answer.tool_calls
        ]
        found.append({"calls": calls, "content": (answer.content or "").strip()})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
