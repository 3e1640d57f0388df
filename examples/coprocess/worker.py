"""A worker in Python: counts the letters of each job.

A line of JSON comes in for each job, a line of JSON goes out. It is started once for each thread
and kept, so what is expensive to set up is set up here, before the loop.
"""

import json
import sys

for line in sys.stdin:
    job = json.loads(line)["job"]
    if job.startswith("#"):
        # The job has failed for good. Without "retry" it is tried again, if it has attempts left.
        answer = {"procsig_error": "this is a comment", "retry": False}
    else:
        answer = {"letters": sum(letter.isalpha() for letter in job)}
    # Each answer at once: a pipe is buffered otherwise, and both sides would wait for ever.
    print(json.dumps(answer), flush=True)
# Here the input has ended: about a second is left to tidy up.
