"""Words and phrases for the sentences of `make_supplement_notes`."""

SUPPLEMENTS = (
    "ashwagandha",
    "biotin",
    "black cohosh",
    "calcium citrate",
    "chamomile",
    "chromium picolinate",
    "coenzyme Q10",
    "collagen powder",
    "cranberry extract",
    "creatine",
    "curcumin",
    "DHEA",
    "echinacea",
    "feverfew",
    "fish oil",
    "flaxseed oil",
    "folic acid",
    "garlic tablets",
    "ginger root",
    "ginkgo biloba",
    "ginseng",
    "glucosamine",
    "green tea extract",
    "iron",
    "kava",
    "magnesium oxide",
    "melatonin",
    "milk thistle",
    "multivitamin",
    "niacin",
    "red yeast rice",
    "saw palmetto",
    "selenium",
    "St. John's wort",
    "turmeric",
    "valerian",
    "vitamin B12",
    "vitamin C",
    "vitamin D3",
    "vitamin E",
    "zinc",
)

DRUGS = (
    "allopurinol",
    "amiodarone",
    "amlodipine",
    "apixaban",
    "atenolol",
    "atorvastatin",
    "bupropion",
    "carvedilol",
    "clopidogrel",
    "digoxin",
    "duloxetine",
    "escitalopram",
    "famotidine",
    "fluoxetine",
    "furosemide",
    "gabapentin",
    "glipizide",
    "hydrochlorothiazide",
    "ibuprofen",
    "insulin glargine",
    "levothyroxine",
    "lisinopril",
    "lithium",
    "losartan",
    "metformin",
    "methotrexate",
    "metoprolol",
    "montelukast",
    "naproxen",
    "omeprazole",
    "pantoprazole",
    "prednisone",
    "quetiapine",
    "sertraline",
    "simvastatin",
    "tamsulosin",
    "tramadol",
    "trazodone",
    "valsartan",
    "warfarin",
)

# A supplement is not always known by its name alone, and neither is a drug.
SUPPLEMENT_FORMS = ("{x} supplement", "OTC {x}")
DRUG_FORMS = ("{x} prescription", "prescribed {x}")

AMOUNTS = ("{n} mg", "{n} mcg", "{n} units", "one tablet", "two capsules", "half a tablet")
NUMBERS = (5, 10, 20, 25, 50, 100, 200, 250, 400, 500, 600, 800, 1000, 1200, 2000, 5000)
FREQUENCIES = ("daily", "BID", "TID", "at bedtime", "with meals", "once a week", "every morning")

MONTHS = ("January", "February", "March", "April", "May", "June")
LATER_MONTHS = ("July", "August", "September", "October", "November", "December")

# Each group of names for the patient is used throughout one note.
PATIENTS = (
    ("the patient", "she"),
    ("the patient", "he"),
    ("patient", "she"),
    ("pt", "he"),
    ("pt", "she"),
    ("Mr. {name}", "he"),
    ("Ms. {name}", "she"),
)
NAMES = ("A.", "B.", "C.", "D.", "H.", "K.", "L.", "M.", "R.", "S.", "T.", "W.")
RELATIVES = ("mother", "father", "husband", "wife", "sister", "brother", "daughter", "roommate")

# Said of somebody, {x} being what they do or do not use. A phrase belongs to one status only.
DIRECT = {
    "continuing": (
        "continues {x}",
        "continues to take {x}",
        "remains on {x}",
        "still takes {x}",
        "has been taking {x} for years",
    ),
    "discontinued": (
        "stopped {x}",
        "stopped taking {x}",
        "discontinued {x}",
        "no longer takes {x}",
        "took {x} until {month}",
    ),
    "started": (
        "started {x}",
        "started taking {x}",
        "began {x}",
        "began taking {x} in {month}",
        "now takes {x} for the first time",
    ),
    "uncertain": (
        "asks about {x}",
        "may or may not take {x}",
        "is considering {x}",
        "wants to read about {x}",
        "is not sure about {x}",
    ),
}

# The same verbs again, turned by negation, scope or order.
INDIRECT = {
    "continuing": (
        "did not stop {x}",
        "denies stopping {x}",
        "was told to stop {x} but has not yet",
        "was told to continue {x} and has done so",
        "is not starting {x}, having taken it for years",
    ),
    "discontinued": (
        "did not continue {x}",
        "denies continuing {x}",
        "was told to stop {x} and has done so",
        "started {x} in {month} but stopped in {later}",
        "was told to continue {x} but stopped",
    ),
    "started": (
        "was told to start {x} and has done so",
        "stopped {x} in {month} but started again in {later}",
        "did not take {x} before {later} but has started",
        "denies taking {x} before {later} but has started",
    ),
    "uncertain": (
        "was told to start {x} but has not yet",
        "may have stopped {x} or may continue",
        "was told to continue {x}, not clear if done",
        "was told to stop {x}, not clear if done",
        "is not sure whether {pronoun} stopped {x}",
    ),
}

PASSIVE = {
    "continuing": ("{x} was continued", "{x} is still taken", "{x} was not stopped"),
    "discontinued": ("{x} was stopped", "{x} was discontinued", "{x} was not continued"),
    "started": ("{x} was started", "{x} was begun in {month}", "{x} was added"),
    "uncertain": ("{x} was discussed", "{x} may have been stopped", "{x} was not yet started"),
}

# They say nothing about a substance, although some use the verbs of the cues.
CONTEXT = (
    "BP {systolic}/{diastolic}",
    "pulse {diastolic} and regular",
    "weight {systolic} lb",
    "here for follow-up of hypertension",
    "here for a routine visit",
    "seen for knee pain",
    "reports fatigue since {month}",
    "no chest pain",
    "no acute distress",
    "allergies reviewed",
    "labs pending",
    "return in {weeks} weeks",
    "continues to smoke",
    "stopped smoking in {month}",
    "started a new job in {month}",
    "asks about a flu shot",
)
