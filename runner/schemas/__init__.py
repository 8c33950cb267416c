"""What is written for machines: report.json, the record of a run, diagnoses, inspections."""
