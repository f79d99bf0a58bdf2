"""The model that every server serves: `digits_wide`."""

MODEL = "digits_wide"
INPUT, OUTPUT = "pixels", "probabilities"
PIXELS, CLASSES = 64, 10
MOST_ROWS = 64  # of a batch
