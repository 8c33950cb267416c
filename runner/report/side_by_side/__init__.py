"""What is said of toolchains side by side: the verdict, the matrix, and the words for both."""
