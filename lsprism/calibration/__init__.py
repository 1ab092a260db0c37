"""What the layers see: text becomes token windows, and hooks watch them pass block after block."""
