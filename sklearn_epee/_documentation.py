"""The address of the documentation, and links to it from the HTML diagrams of estimators."""

from __future__ import annotations

import os
import re

# Address of the site built by `make docs`, without a slash at the end. Empty if not published;
# then it is not in the project's URLs in pyproject.toml either.
ADDRESS = ""
# For those who host the site themselves.
ENVIRONMENT_VARIABLE = "SKLEARN_EPEE_DOCS_URL"


def site_address() -> str:
    """Return the address of the site without a slash at the end; empty if there is none.

    Raises
    ------
    ValueError
        If the value of the environment variable is not an address.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE, ADDRESS).strip()
    if given and not re.fullmatch(r"(https?|file)://[^\s<>\"'{}?#]+", given):
        raise ValueError(
            f"The environment variable {ENVIRONMENT_VARIABLE} is {given!r}; expected the address "
            "of the folder with the site's index.html, such as 'https://docs.example.org/epee' "
            "(https://, http:// or file://), or nothing for diagrams without links."
        )
    return given.rstrip("/")


class DocumentationLinkMixin:
    """Lets the diagram of an estimator link to its page, with the attributes of scikit-learn.

    Must come before `BaseEstimator` in the bases. Subclasses in other packages get no link.
    """

    _doc_link_module = "sklearn_epee"

    @property
    def _doc_link_template(self) -> str:
        """Return the template of the address of a page; evaluated for every diagram."""
        address = site_address()
        return f"{address}/generated/sklearn_epee.{{name}}.html" if address else ""

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"name": type(self).__name__}
