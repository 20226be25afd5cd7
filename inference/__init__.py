"""What ships: export, and a runtime without PyTorch."""
