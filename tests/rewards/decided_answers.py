r"""Answers that can be judged either way, and how they are: the table in docs/method.md.

A row is (answer in the box, ground truth, whether it is right).
"""

DECIDED = [
    # An equation between two numbers that is false answers nothing.
    ("1=2", "2", False),
    ("1==2", "2", False),
    ("x=1=2", "2", False),
    (r"\pi = 3", r"\pi", False),
    (r"\frac{4}{2}=2", "2", True),
    (r"1+1 = 2", "2", True),
    ("5=x", "5", True),
    ("1,000 = 1000", "1{,}000", False),  # Math-Verify reads no number in it
    (r"\sqrt{2}\cdot\sqrt{2} = 2", "2", True),
    ("101_2 = 5", "5", True),  # other bases, residues and percentages are not checked
    (r"10 = 3 \pmod 7", "3", True),
    (r"50\% = 0.5", "0.5", True),
    # What is nearly equal has to be, within one in the last place that is written.
    (r"3 \approx 2", "3", False),
    (r"\pi \approx 3.16", r"\pi", False),
    (r"\pi \approx 3.14", r"\pi", True),
    (r"\pi \approx 3", r"\pi", True),
    (r"\frac{2}{3} \approx 0.66", r"\frac{2}{3}", True),
    (r"x \approx 3", "3", True),
    # A decimal is an exact number if it has its first six decimals and its first six digits.
    ("3.14159265", r"\pi", True),
    ("3.141593", r"\pi", True),
    ("3.14159", r"\pi", False),
    ("0.3333333333", r"\frac{1}{3}", True),
    ("0.33333", r"\frac{1}{3}", False),
    ("0.0000001", r"\frac{1}{30000000}", False),
    ("0.00000005", "10^{-8}", False),
    ("1.0000000001", "1", False),
    ("10000000001", "10000000000", False),
    # A list names a set, however often it names an element.
    ("1,1,2", r"\{1,2\}", True),
    ("1,1", r"\{1,2\}", False),
    ("(1,1,2)", "(1,2)", False),
    # Digits in other shapes are digits.
    ("４２", "42", True),
    ("４３", "42", False),
    ("4²", "16", True),
    ("4²", "42", False),
    ("10⁻²", "0.01", True),
    ("x²", "x^2", True),
    ("1½", r"\frac{3}{2}", True),
    # A numeral with an exponent, as programs print it. e is the number e otherwise.
    ("4.2e1", "42", True),
    ("4.2E+1", "42", True),
    ("5e-3", "0.005", True),
    ("4.2e2", "42", False),
    ("2e", "2e", True),
    ("2e^2", "200", False),
]
