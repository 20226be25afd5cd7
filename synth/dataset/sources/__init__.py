"""Where photographs come from: folders of files, Parquet, archives, saved and published datasets."""
