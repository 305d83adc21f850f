#!/usr/bin/env python3
# Adds up, and says what is no sum.
import json, sys

for line in sys.stdin:
    asked = json.loads(line)
    answer = {"id": asked["id"], "status": 0}
    try:
        answer["result"] = sum(asked["params"])
    except TypeError as error:
        answer.update(status=1, stderr=f"{error}\n")
    print(json.dumps(answer), flush=True)
