"""95 % intervals of means (Student's t)."""
import math

# Of 1 to 9 degrees of freedom.
T = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]
Z = 1.959964


def student_t(df):
    """97.5 % quantile; from 10 degrees of freedom on by its expansion in 1 / df, within 2e-4."""
    if df <= len(T):
        return T[df - 1]
    first, second = (Z**3 + Z) / 4, (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    third = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + first / df + second / df**2 + third / df**3


def mean(values):
    return sum(values) / len(values)


def half(values):
    """Half of the 95 % interval of a mean."""
    if len(values) < 2:
        return math.nan
    spread = math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))
    return student_t(len(values) - 1) * spread / math.sqrt(len(values))
