"""Names of the floors on the page, in the section "How much of this is the scanner?"."""

NAMES = {  # floor → its name on the page, and what the classifier sees
    "floor_acquisition": ("acquisition", "all that a clip table says: size, frame rate, crop box, geometry, number of frames"),
    "floor_size": ("image size", "height and width of the picture"),
    "floor_frame_rate": ("frame rate", "frames per second"),
    "floor_crop_box": ("crop box", "where the fan lies in the picture: left, top, width, height"),
    "floor_fan_geometry": ("geometry of the fan", "the probe's face, opening and depth"),
    "floor_frame_count": ("number of frames", "how many frames were read and kept"),
    "floor_outline": ("outline of the fan", "which parts of the picture are ever lit, on a grid of 16\u00a0×\u00a016"),
    "floor_histogram": ("grey histogram", "how often each grey level occurs"),
    "random_features": ("untrained network", "features of random weights, batch norm calibrated without labels"),
    "random_features_uncalibrated": ("untrained network, uncalibrated", "features of random weights, batch norm as it starts"),
}


def rows(values: dict[str, float]) -> list[dict]:
    """The floors, the highest first: name, sees, value.

    Args:
        values: floor → balanced accuracy.
    """
    ordered = sorted(values, key=lambda floor: -values[floor])
    return [{"name": NAMES[floor][0], "sees": NAMES[floor][1], "value": values[floor]} for floor in ordered]
