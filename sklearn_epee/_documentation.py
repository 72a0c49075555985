"""The address of the documentation, and links to it from the HTML diagrams of estimators."""

from __future__ import annotations

import os
import re

# The address of the site that `make docs` builds, without a slash at its end. Empty while it is not
# published: then the project's URLs in pyproject.toml do not name it.
ADDRESS = ""
# Whoever hosts the site, says here where.
ENVIRONMENT_VARIABLE = "SKLEARN_EPEE_DOCS_URL"


def site_address() -> str:
    """Return the address of the site without a slash at its end, empty if it is nowhere.

    Raises
    ------
    ValueError
        If the environment variable holds no address.
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
    """Lets the diagram of an estimator link to its page, by the attributes scikit-learn asks for.

    Comes before `BaseEstimator` among the bases. Subclasses in other packages get no link.
    """

    _doc_link_module = "sklearn_epee"

    @property
    def _doc_link_template(self) -> str:
        """Return the address of the page, with the name to be filled in; read at every diagram."""
        address = site_address()
        return f"{address}/generated/sklearn_epee.{{name}}.html" if address else ""

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"name": type(self).__name__}
