"""How files keep weights as codes and scales, convention by convention."""
