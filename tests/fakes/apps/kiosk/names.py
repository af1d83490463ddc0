"""Words that the seed and the tools share: an app's files may import each other."""

NAMES = ("apple", "Birne", "柿", "naïve melon")
SHELVES = ("left", "right")
