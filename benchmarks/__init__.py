"""What Walrus costs, beside the limits of the machine and the alternatives, measured in one run."""
