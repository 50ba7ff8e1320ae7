"""New versions of QFLARE on a device: signed releases, tried before they stay, with a way back."""
