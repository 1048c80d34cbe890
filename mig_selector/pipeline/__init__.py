"""The recipe that joins the stages: plan, read, embed, select, write, deliver."""
