"""Names of the floors on the page, in the section "How much of this is the scanner?"."""

NAMES = {  # floor → its name on the page, and what the classifier sees
    "floor_acquisition": ("acquisition", "image size, frame rate, crop box, geometry of the fan, number of frames"),
    "floor_outline": ("outline of the fan", "which parts of the picture are ever lit, on a grid of 16 × 16"),
    "floor_histogram": ("grey histogram", "how often each grey level occurs"),
    "random_features": ("untrained network", "features of random weights, batch norm calibrated on training frames"),
    "random_features_uncalibrated": ("untrained network, uncalibrated", "features of random weights, batch norm as it starts"),
}


def rows(values: dict[str, float]) -> list[dict]:
    """The floors, the highest first: name, sees, value.

    Args:
        values: floor → balanced accuracy.
    """
    ordered = sorted(values, key=lambda floor: -values[floor])
    return [{"name": NAMES[floor][0], "sees": NAMES[floor][1], "value": values[floor]} for floor in ordered]
