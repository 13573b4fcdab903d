"""The key of a prediction: the same selected inputs, model, preparation and parameters give the same key."""

import hashlib
import json


def prediction_key(set_id: str, model_digest: str, preparation_version: str, parameter_digest: str) -> str:
    """Return the SHA-256 (hex) that a prediction is stored and published under.

    Parameters
    ----------
    set_id : str
        `Selected.set_id`.
    model_digest : str
        `Package.digest`.
    preparation_version, parameter_digest : str
        `Card.preparation_version` and `Card.parameter_digest`.
    """
    # A JSON list and not a joined text: no two different quadruples have the same bytes.
    text = json.dumps([set_id, model_digest, preparation_version, parameter_digest], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
