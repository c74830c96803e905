"""Lists the models that the Tensorized LSTM is compared with, and the options of each.

Example:
    python -m experiments.rivals
"""

from experiments.rivals import RIVALS, arguments

if __name__ == "__main__":
    print("\n".join(arguments.explanation(name, rival) for name, rival in RIVALS.items()))
