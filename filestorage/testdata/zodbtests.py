"""Lists the test cases that the installed ZODB has, for zodb-tests.txt.

usage: python zodbtests.py

Each line is a file, relative to the package ZODB, and a case: Class.method,
the name of a function with a doctest, __doc__ for the doctest of a module, or *
for a file that is one doctest.
"""
import ast
import os

import ZODB

TOP = os.path.dirname(ZODB.__file__)


def is_doctest(node):
    return isinstance(node, ast.FunctionDef) and '>>>' in (ast.get_docstring(node) or '')


def cases(path):
    if not path.endswith('.py'):
        return ['*']
    with open(path) as f:
        tree = ast.parse(f.read())
    names = ['__doc__'] if '>>>' in (ast.get_docstring(tree) or '') else []
    for node in tree.body:
        if is_doctest(node):
            names.append(node.name)
        elif isinstance(node, ast.ClassDef):
            names += [node.name + '.' + m.name for m in node.body
                      if isinstance(m, ast.FunctionDef) and (m.name.startswith(('test', 'check')) or is_doctest(m))]
    return names


def main():
    for folder in 'tests', 'FileStorage', 'scripts/tests':
        for name in sorted(os.listdir(os.path.join(TOP, folder))):
            path = os.path.join(TOP, folder, name)
            if name.endswith(('.txt', '.test', '.rst')) or folder != 'FileStorage' and name.endswith('.py') or name == 'tests.py':
                for case in sorted(set(cases(path))):
                    print(folder + '/' + name, case)


main()
