"""Sum up what `go test -json` said.

    summary.py EVENTS PASSED

Prints a line per package, and all output of what failed; of the race detector's reports
all, first, as go test may count one to a test that passed. Appends the names of the
tests that passed to the file PASSED. Exits with 1 if a test failed or was skipped, a
package did not build, or nothing was tested.
"""

import collections
import json
import re
import sys

# A report stands between two such lines. Lines of other tests may come in between.
RACE = re.compile(r"^={18}\n.*?^={18}$", re.MULTILINE | re.DOTALL)


def main(events, passed):
    output = collections.defaultdict(list)
    results = collections.defaultdict(collections.Counter)
    bad = []
    with open(events) as f, open(passed, "a") as names:
        for line in f:
            event = json.loads(line)
            action, test = event["Action"], event.get("Test")
            package = event.get("Package") or event.get("ImportPath", "?")
            if action in ("output", "build-output"):
                output[package, test].append(event["Output"])
            elif action == "build-fail":
                bad.append((package, test, "does not build"))
            elif action in ("pass", "fail", "skip") and test:
                results[package][action] += 1
                if action == "pass":
                    names.write("%s %s\n" % (package, test))
                else:
                    bad.append((package, test, {"fail": "failed", "skip": "was skipped"}[action]))
            elif action in ("pass", "fail"):
                print("%-4s %-60s %5d tests %6.1f s" % (
                    action, package, results[package]["pass"], event.get("Elapsed", 0)))
                if action == "fail":
                    bad.append((package, None, "failed"))
    total = sum(r["pass"] for r in results.values())
    if bad:
        for (package, _), lines in output.items():
            for report in RACE.findall("".join(lines)):
                print("\n*** %s\n%s" % (package, report))
    for package, test, what in bad:
        print("\n*** %s %s %s" % (package, test or "", what))
        print("".join(output[package, test]))
    print("%d tests passed, %d problems" % (total, len(bad)))
    return 1 if bad or not total else 0


sys.exit(main(*sys.argv[1:]))
