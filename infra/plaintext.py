"""Who may speak in the clear: loopback, and whoever says that it is meant."""

import ipaddress

from schemas.errors import SettingsError


def refuse_plaintext(host: str, allowed: bool, setting: str, permit: str) -> None:
    """Raise SettingsError for an address beyond loopback, unless `allowed`.

    Parameters
    ----------
    host : str
        An address; a name may mean any address, today or tomorrow, so only ``localhost`` passes.
    allowed : bool
        What the setting `permit` says.
    setting, permit : str
        Names for the message.
    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not allowed:
        raise SettingsError(f"{setting}: expected a loopback address, or {permit}")
