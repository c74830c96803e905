"""Reading the results of runs; writing tables, figures and pages about them."""
