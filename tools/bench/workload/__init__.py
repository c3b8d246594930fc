"""What is asked, and when: everything is drawn from one seed before the clock starts."""
