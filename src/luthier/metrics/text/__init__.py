"""Text functions that several metrics share: sequences, numbers, stems and structures."""
