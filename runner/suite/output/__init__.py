"""What a suite writes for people and for CI: a page, and JUnit XML."""
