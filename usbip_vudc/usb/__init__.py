"""The words of USB: chapter 9 and its descriptors."""
