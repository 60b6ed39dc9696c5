"""The kinds of the columns of real tables, as a person who looks at them says: written down before the inference was.

A column for which two answers are as good is written with both: a number that has two values only, and names of which
most occur once or twice.
"""

from __future__ import annotations


def _list(**kinds: str) -> dict[str, str]:
    """Column to kinds, of kinds to columns; `_or_` joins two kinds."""
    return {name: kind.replace("_or_", " ") for kind, names in kinds.items() for name in names.split()}


CANCER = "radius texture perimeter area smoothness compactness concavity".split()
CANCER_FULL = [*CANCER, "concave points", "symmetry", "fractal dimension"]

EXPECTED: dict[str, dict[str, str]] = {
    "breast_cancer": {
        **{f"mean {name}": "scalar" for name in CANCER_FULL},
        **{f"{name} error": "scalar" for name in CANCER_FULL},
        **{f"worst {name}": "scalar" for name in CANCER_FULL},
        "target": "boolean",
    },
    "diabetes": _list(scalar="age bmi bp s1 s2 s3 s4 s5 s6 target", scalar_or_categorical="sex"),
    "flights": _list(
        dropped="year",
        scalar="month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay air_time distance hour "
        "minute",
        categorical="carrier flight tailnum origin dest",
        timestamp="time_hour",
    ),
    "weather": _list(
        dropped="year",
        categorical="origin",
        scalar="month day hour temp dewp humid wind_dir wind_speed wind_gust precip pressure visib",
        timestamp="time_hour",
    ),
    "planes": _list(
        identifier="tailnum", scalar="year engines seats speed", categorical="type manufacturer model engine"
    ),
    "airports": _list(identifier="faa", text="name", scalar="lat lon alt tz", categorical="dst tzone"),
    "diamonds": _list(scalar="carat depth table price x y z", categorical="cut color clarity"),
    "mpg": _list(
        categorical="manufacturer model trans drv fl class", scalar="displ cyl cty hwy", scalar_or_categorical="year"
    ),
    "msleep": _list(
        text="name",
        text_or_categorical="genus",
        categorical="vore order conservation",
        scalar="sleep_total sleep_rem sleep_cycle awake brainwt bodywt",
    ),
    "economics": _list(timestamp="date", scalar="pce pop psavert uempmed unemploy"),
    "txhousing": _list(categorical="city", scalar="year month sales volume median listings inventory date"),
    "birds": _list(
        identifier="rownames",
        categorical="opid operator atype phase_of_flt time_of_day state effect sky species birds_seen birds_struck",
        text="remarks",
        timestamp="date",
        scalar="ac_mass num_engs height speed",
    ),
    "seattlepets": _list(
        identifier="rownames license_number",
        timestamp="license_issue_date",
        text="animal_name",
        categorical="species primary_breed secondary_breed zip_code",
    ),
    "loans": _list(
        identifier="rownames",
        text="emp_title",
        dropped="num_accounts_120d_past_due",
        timestamp="issue_month",
        categorical="state homeownership verified_income verification_income_joint loan_purpose application_type grade "
        "sub_grade loan_status initial_listing_status disbursement_method",
        boolean="current_accounts_delinq num_accounts_30d_past_due",
        scalar_or_categorical="term",
        scalar="emp_length annual_income debt_to_income annual_income_joint debt_to_income_joint delinq_2y "
        "months_since_last_delinq earliest_credit_line inquiries_last_12m total_credit_lines open_credit_lines "
        "total_credit_limit total_credit_utilized num_collections_last_12m num_historical_failed_to_pay "
        "months_since_90d_late total_collection_amount_ever current_installment_accounts accounts_opened_24m "
        "months_since_last_credit_inquiry num_satisfactory_accounts num_active_debit_accounts total_debit_limit "
        "num_total_cc_accounts num_open_cc_accounts num_cc_carrying_balance num_mort_accounts "
        "account_never_delinq_percent tax_liens public_record_bankrupt loan_amount interest_rate installment balance "
        "paid_total paid_principal paid_interest paid_late_fees",
    ),
    "stops": _list(
        identifier="rownames idNum",
        timestamp="date",
        boolean="citationIssued personSearch vehicleSearch",
        categorical="problem MDC preRace race gender policePrecinct neighborhood",
        scalar="lat long",
    ),
    "adult": _list(
        scalar="column_1 column_3 column_5 column_11 column_12 column_13",
        categorical="column_2 column_4 column_6 column_7 column_8 column_9 column_10 column_14 column_15",
    ),
    "compas": {
        **_list(
            identifier="id c_case_number r_case_number vr_case_number",
            text="name",
            text_or_categorical="first last",
            timestamp="compas_screening_date dob c_jail_in c_jail_out c_offense_date c_arrest_date r_offense_date "
            "r_jail_in r_jail_out vr_offense_date screening_date v_screening_date in_custody out_custody",
            categorical="sex age_cat race c_charge_degree c_charge_desc r_charge_degree r_charge_desc "
            "vr_charge_degree vr_charge_desc score_text v_score_text",
            scalar="age juv_fel_count decile_score juv_misd_count juv_other_count priors_count "
            "days_b_screening_arrest c_days_from_compas r_days_from_arrest v_decile_score start end",
            boolean="is_recid is_violent_recid event two_year_recid",
            dropped="violent_recid type_of_assessment v_type_of_assessment",
        ),
        "decile_score (2)": "scalar",
        "priors_count (2)": "scalar",
    },
}
"""By table and column, the kind, or two of them."""
