"""What recovery_comparison_test.go measures of Python: copyTransactionsFrom between
two FileStorages.

usage: python recover_compare.py FROM TO [START]

Prints the seconds that it took to copy the transactions of FROM, from the hexadecimal
tid START on if there is one, to TO, which is created if it is missing. Opening and
closing is not counted.
"""
import sys
import time

from ZODB.FileStorage import FileStorage


class Since:

    def __init__(self, storage, start):
        self.storage, self.start = storage, start

    def iterator(self):
        return self.storage.iterator(self.start)


def main(source, target, start=None):
    source = FileStorage(source, read_only=True)
    target = FileStorage(target)
    begun = time.perf_counter()
    target.copyTransactionsFrom(
        source if start is None else Since(source, bytes.fromhex(start)))
    print(time.perf_counter() - begun)
    target.close()
    source.close()


main(*sys.argv[1:])
