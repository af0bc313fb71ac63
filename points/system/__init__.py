"""The credit-card points system (信用卡积分系统) of CN104200375A: accounts, lots of points, deductions.

A system of its own, with its own database: the e-commerce system reaches it by signed messages only and imports
nothing of it; it imports nothing of the e-commerce system but the envelope. Points are whole numbers.
"""
