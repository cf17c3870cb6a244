"""pyprod: which form of this PyTorch model should run in production here, and did the last change make it slower?"""

__version__ = "0.1.0"
