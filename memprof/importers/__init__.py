"""What others wrote - scenario files, settings of other libraries - read into a Scenario."""
