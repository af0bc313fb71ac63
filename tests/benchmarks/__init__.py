"""What the house costs, each figure beside a reference measured in the same run. Ratios count, times are the machine's.

    python -m tests.benchmarks              everything (about half an hour)
    python -m tests.benchmarks payment      one, by the name of its module

payment     the payment verb beside the bare SQL function, plain ORM statements and django-hordak
issuing     a batch becoming insured cards beside COPY of the same rows
claims      assessing 100,000 cards beside one INSERT … SELECT
enrolment   100,000 cards enrolled with the reference insurer
scale       a payment among 1,000,000 cards beside one among 10,000
memory      a file of 500,000 purchases imported and issued

points_system   deductions answered over HTTP beside the bare SQL that makes them
"""
