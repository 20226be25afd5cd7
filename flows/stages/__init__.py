"""The stages of a run as Prefect flows and tasks: paint, distil, compress, export, measure."""
